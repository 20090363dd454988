"""Scheduling policies: pure and deterministic. Time is an argument, a random generator is given, and nothing of torch or recfx is imported.

A configuration that cannot work is a `ValueError` whose text says what to pass instead. Policies hold no lock.
"""

from recfx.serve.policies.admission import Admission, AdmissionConfig, Verdict
from recfx.serve.policies.batching import (
    AimdBatching,
    AimdConfig,
    BatchDecision,
    Batching,
    DeadlineBatching,
    DeadlineConfig,
    QueuedRequest,
)
from recfx.serve.policies.ladder import LadderConfig, Rung, VariantLadder, switch_is_cheaper
from recfx.serve.policies.load import BusyMeter, LoadMeter
from recfx.serve.policies.prequal import Prequal, PrequalConfig, Probe
from recfx.serve.policies.replica_load import ReplicaLoad
from recfx.serve.policies.routing import LeastInFlight, PeakEwma, PeakEwmaConfig, PowerOfTwo, RoundRobin, Router
from recfx.serve.policies.scaling import ReplicaScaling, ScalingConfig
from recfx.serve.policies.splitting import CandidateSplit, SplitConfig, SplitPlan
from recfx.serve.policies.tenants import TenantConfig, TenantLimit, TenantLimits
from recfx.serve.policies.times import ServiceTimes, TimeCorrection
from recfx.serve.policies.tuning import DeepRecSysClimb, HillClimb, RateSearch, RateSearchConfig, Trial

__all__ = [
    "Admission",
    "AdmissionConfig",
    "AimdBatching",
    "AimdConfig",
    "BatchDecision",
    "Batching",
    "BusyMeter",
    "CandidateSplit",
    "DeadlineBatching",
    "DeadlineConfig",
    "DeepRecSysClimb",
    "HillClimb",
    "LadderConfig",
    "LeastInFlight",
    "LoadMeter",
    "PeakEwma",
    "PeakEwmaConfig",
    "PowerOfTwo",
    "Prequal",
    "PrequalConfig",
    "Probe",
    "QueuedRequest",
    "RateSearch",
    "RateSearchConfig",
    "ReplicaLoad",
    "ReplicaScaling",
    "RoundRobin",
    "Router",
    "Rung",
    "ScalingConfig",
    "ServiceTimes",
    "SplitConfig",
    "SplitPlan",
    "TenantConfig",
    "TenantLimit",
    "TenantLimits",
    "TimeCorrection",
    "Trial",
    "VariantLadder",
    "Verdict",
    "switch_is_cheaper",
]

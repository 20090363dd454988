"""A discrete-event simulator of any number of replicas that runs the policies of the engine on measured profiles."""

from recfx.serve.simulator.arrivals import Arrivals, Diurnal, FlashCrowd, Poisson, RateTrace, RecordedTimes
from recfx.serve.simulator.profiles import read_profile, times_of
from recfx.serve.simulator.query_sizes import QuerySizes
from recfx.serve.simulator.records import Outcome
from recfx.serve.simulator.report import Interval, Report
from recfx.serve.simulator.scenario import ROUTING, Fault, Machines, Policies, Scenario, Tenants, Variant
from recfx.serve.simulator.simulation import simulate
from recfx.serve.simulator.sizing import Found, applied, fewest_replicas, largest_rate, tuned
from recfx.serve.simulator.traces import read_trace

__all__ = [
    "ROUTING",
    "Arrivals",
    "Diurnal",
    "Fault",
    "FlashCrowd",
    "Found",
    "Interval",
    "Machines",
    "Outcome",
    "Poisson",
    "Policies",
    "QuerySizes",
    "RateTrace",
    "RecordedTimes",
    "Report",
    "Scenario",
    "Tenants",
    "Variant",
    "applied",
    "fewest_replicas",
    "largest_rate",
    "read_profile",
    "read_trace",
    "simulate",
    "times_of",
    "tuned",
]

"""`recfx simulate`: its options, the scenario that they describe, and what it prints."""

from recfx.simulation_command.options import add_simulate
from recfx.simulation_command.run import simulated
from recfx.simulation_command.scenario import scenario_of

__all__ = ["add_simulate", "scenario_of", "simulated"]

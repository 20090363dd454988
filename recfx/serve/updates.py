"""New rows for the tables of served models: who may send them, where they are kept, and how several processes have the same.

Every process appends the updates that it is sent to the journal of the saved model, and a thread of it follows those of the others. A
model that was not loaded from a folder has no journal.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from recfx.compiled import CompiledModel
from recfx.errors import InputError, RecfxError
from recfx.serve.engine.engine import Engine
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.recommender.recommender import Recommender

_log = logging.getLogger("recfx.serve")


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """Who may send new rows, and when they count as kept.

    Attributes:
        tenants: The tenants that may send them; empty for all clients.
        sync: See `CompiledModel.keep_updates`.
        follow: Seconds between two looks at the journal, for updates of other processes.
        most_waiting: Updates of a model that wait at a time; further ones are rejected.
    """

    tenants: frozenset[str] = frozenset()
    sync: Literal["process", "disk"] = "process"
    follow: float = 0.02
    most_waiting: int = 16

    def __post_init__(self) -> None:
        if not self.follow > 0:
            raise InputError(
                f"expected seconds above 0, got {self.follow!r}", where="follow", hint="pass a number of seconds"
            )


class TableUpdates:
    """The updates of the served models.

    Args:
        settings: Who may send them, and when they count as kept; None if nobody may.
        engines: Gives the engines that are served.
    """

    def __init__(self, settings: UpdateSettings | None, engines: Callable[[], Iterable[Engine]]) -> None:
        self.settings = settings
        self._engines = engines
        self._ended = threading.Event()
        self._waiting: dict[str, threading.Semaphore] = {}
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self, model: CompiledModel | Recommender, folder: Path | None) -> None:
        """Makes a model ready for updates and reads those of its journal.

        Raises:
            ArtifactError: The journal is damaged.
            InputError: The model takes no updates.
        """
        if self.settings is None:
            return
        model.prepare_updates()
        if folder is None:
            return
        found = model.keep_updates(folder, sync=self.settings.sync)
        if found:
            _log.info("%s: %d updates of tables were read from its journal", folder, found)
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="recfx-follow-updates", daemon=True)
                self._thread.start()

    def apply(self, engine: Engine, tensors: Mapping[str, torch.Tensor], tenant: str) -> dict[str, Any]:
        """Writes new rows into every variant of a model; blocks until calls see them.

        Args:
            engine: The model.
            tensors: "ids:TABLE" -> int64 [n] or int32 [n] and "rows:TABLE" -> [n, columns], for each table; for a recommender also items,
                see `change_of`.
            tenant: Who sends them.

        Returns:
            The answer: the number of updates of the model so far, and of the rows of this one.

        Raises:
            Rejected: They are not allowed, do not fit the model, or too many others wait.
        """
        self.require_allowed(tenant)
        assert self.settings is not None
        with self._guard:
            turn = self._waiting.setdefault(engine.name, threading.Semaphore(self.settings.most_waiting))
        if not turn.acquire(blocking=False):
            raise Rejected(
                Reason.OVERLOADED,
                "too many updates of the model wait",
                where=f"model {engine.name}",
                hint="send larger updates, one after another",
            )
        try:
            first, *others = [variant.interface.updates for variant in engine.variants]
            for other in others:
                other.check(tensors)
            version, rows = first.update(tensors)
            for other in others:
                other.update(tensors)
        except Rejected:  # by a replica that runs the model
            raise
        except InputError as error:
            where = f"model {engine.name}" + (f", {error.where}" if error.where else "")
            raise Rejected(Reason.INVALID, error.what, where=where, hint=error.hint) from error
        except RecfxError as error:
            _log.error("model %s: an update of its tables failed: %s", engine.name, error.in_one_line)
            raise Rejected(Reason.FAILED, error.what, where=error.where, hint=error.hint) from error
        finally:
            turn.release()
        with engine.lock:
            engine.statistics.update(1, rows, engine.clock())
        return {"model_name": engine.name, "model_version": str(engine.version), "table_version": version, "rows": rows}

    def require_allowed(self, tenant: str) -> None:
        """Checks that a tenant may send new rows.

        Raises:
            Rejected: It may not.
        """
        if self.settings is None:
            raise Rejected(
                Reason.UNKNOWN,
                "this server takes no updates of tables",
                where="tables",
                hint="start it with --allow-updates",
            )
        if self.settings.tenants and tenant not in self.settings.tenants:
            raise Rejected(
                Reason.FORBIDDEN,
                f"the tenant {tenant!r:.80} may not update tables",
                where="tables",
                hint="send the token of a tenant that --updaters names",
            )

    def _follow(self) -> None:
        assert self.settings is not None
        said: set[str] = set()
        while not self._ended.wait(self.settings.follow):
            for engine in self._engines():
                for variant in engine.variants:
                    try:
                        found = variant.interface.updates.follow()
                    except RecfxError as error:
                        if error.in_one_line not in said:
                            said.add(error.in_one_line)
                            _log.error("model %s does not follow its journal: %s", engine.name, error.in_one_line)
                        continue
                    if found and variant is engine.variants[0]:
                        with engine.lock:
                            engine.statistics.update(found, 0, engine.clock())

    def close(self) -> None:
        """Ends the thread that follows the journals."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()


def tables_document(engine: Engine) -> dict[str, Any]:
    """What can be changed in a model: its tables with their sizes and formats, and why a table takes no rows if it takes none."""
    return {"name": engine.name, **engine.variant.interface.updates.document()}

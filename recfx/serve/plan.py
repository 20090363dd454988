"""`ServerPlan`: everything that a server is made of, in a form that a process can hand to others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from recfx.errors import InputError
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.models import Models, Source
from recfx.serve.policies.tenants import TenantConfig
from recfx.serve.protocol.limits import HttpSettings
from recfx.serve.server import Server, ServerSettings
from recfx.serve.siblings import Siblings
from recfx.serve.tracing import Tracing, TracingSettings
from recfx.serve.updates import UpdateSettings


@dataclasses.dataclass(frozen=True)
class ServerPlan:
    """What a server is made of.

    Attributes:
        models: Name and variants of each model, the best variant first.
        settings: Where it listens.
        engine: Limits and threads of each model.
        http: Limits and tokens.
        tenants: Limits per tenant; None for none.
        updates: Who may send new rows of tables; None if nobody may.
        logs: The form of the log of further processes: "text" or "json".
        tracing: Where spans of requests are sent; None for none.
    """

    models: Sequence[tuple[str, Sequence[Source]]]
    settings: ServerSettings = dataclasses.field(default_factory=ServerSettings)
    engine: EngineSettings = dataclasses.field(default_factory=EngineSettings)
    http: HttpSettings = dataclasses.field(default_factory=HttpSettings)
    tenants: TenantConfig | None = None
    updates: UpdateSettings | None = None
    logs: str = "text"
    tracing: TracingSettings | None = None

    def make(self, siblings: Path | None = None) -> Server:
        """The server; its models are loaded.

        Args:
            siblings: The folder of the processes that share its port; None if it is alone.

        Raises:
            RecfxError: A model cannot be loaded or served.
        """
        models = Models(self.engine, self.tenants, self.updates, shared=siblings is not None)
        for name, sources in self.models:
            models.add(list(sources), name)
        others = None if siblings is None else Siblings(siblings)
        return Server(models, settings=self.settings, http=self.http, siblings=others, tracing=self.made_tracing())

    def made_tracing(self) -> Tracing | None:
        """What makes the spans of this process; None for none.

        Raises:
            TargetError: The packages of OpenTelemetry are missing.
        """
        return None if self.tracing is None else self.tracing.make()


def sources_of(models: Mapping[str, str | Path | Sequence[Source]]) -> list[tuple[str, Sequence[Source]]]:
    """Name and variants of each model from the folders of saved models.

    Raises:
        InputError: A folder does not exist.
    """
    found: list[tuple[str, Sequence[Source]]] = []
    for name, given in models.items():
        sources = [Source(Path(given))] if isinstance(given, str | Path) else list(given)
        for source in sources:
            if not source.folder.is_dir():
                raise InputError(
                    "no saved model there",
                    where=str(source.folder),
                    hint="pass folders that fast.save or recfx optimize -o wrote",
                )
        found.append((name, sources))
    return found

"""`Models`: the served models by name, each with its engine, and how they are loaded, reloaded and removed."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from recfx.compiled import CompiledModel, load
from recfx.errors import InputError, RecfxError
from recfx.serve.engine.engine import Engine
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant, variant
from recfx.serve.outcomes import Reason, Rejected
from recfx.serve.policies.tenants import TenantConfig
from recfx.serve.recommender.files import is_recommender
from recfx.serve.recommender.recommender import Recommender
from recfx.serve.recommender.variant import recommender_variant
from recfx.serve.updates import TableUpdates, UpdateSettings

_log = logging.getLogger("recfx.serve")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a variant of a model comes from.

    Attributes:
        folder: A folder from `CompiledModel.save` or `Recommender.save`.
        quality: The metric of its certificate; higher is better.
    """

    folder: Path
    quality: float = 0.0

    @property
    def name(self) -> str:
        """The name of the folder without its suffix."""
        return self.folder.stem


class Models:
    """The served models by name.

    Args:
        settings: Limits and threads of each model.
        tenants: Limits per tenant, for each model.
        updates: Who may send new rows of tables; None if nobody may.
        shared: Whether other processes serve the same folders; see `recfx.load`.

    Attributes:
        updates: The updates of tables.
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        tenants: TenantConfig | None = None,
        updates: UpdateSettings | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self._shared = shared
        self.updates = TableUpdates(updates, lambda: self)
        self.settings = settings or EngineSettings()
        self._tenants = tenants
        self._engines: dict[str, Engine] = {}
        self._sources: dict[str, tuple[Source, ...]] = {}
        self._loading = threading.Lock()

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    def __len__(self) -> int:
        return len(self._engines)

    def add(
        self, model: CompiledModel | Recommender | str | Path | Sequence[Source], name: str | None = None
    ) -> Engine:
        """Serves a model.

        Args:
            model: A compiled model or a recommender, the folder of a saved one, or the variants of one model, the best first.
            name: Its name; by default that of the first folder without its suffix.

        Raises:
            InputError: The name is missing, taken, or not allowed in an address.
            RecfxError: The model cannot be loaded or served.
        """
        with self._loading:
            sources: tuple[Source, ...] = ()
            if isinstance(model, str | Path):
                sources = (Source(Path(model)),)
            elif not isinstance(model, CompiledModel | Recommender):
                sources = tuple(model)
            name = name or (sources[0].name if sources else None)
            if name is None or not name or "/" in name or name != name.strip():
                raise InputError(
                    f"{name!r} cannot be the name of a model", hint="pass name= with letters, digits, - and _"
                )
            if name in self._engines:
                raise InputError(f"a model {name!r} is served already", hint="pass another name=, or use reload")
            if isinstance(model, CompiledModel | Recommender):
                self.updates.open(model, None)
                variants: Sequence[Variant] = [self._variant(model, name, 0.0)]
            else:
                variants = self._load(sources)
            engine = self._engines[name] = Engine(name, variants, self.settings, tenants=self._tenants)
            self._sources[name] = sources
            return engine

    def add_variants(self, name: str, variants: Sequence[Variant]) -> Engine:
        """Serves variants that are ready, the best first; see `add`.

        Raises:
            InputError: The name is taken.
        """
        with self._loading:
            if name in self._engines:
                raise InputError(f"a model {name!r} is served already", hint="pass another name=, or use reload")
            engine = self._engines[name] = Engine(name, variants, self.settings, tenants=self._tenants)
            self._sources[name] = ()
            return engine

    def _load(self, sources: Sequence[Source]) -> list[Variant]:
        found = []
        for source in sources:
            if is_recommender(source.folder):
                model: CompiledModel | Recommender = Recommender.load(source.folder)
            else:
                model = load(source.folder, shared=self._shared)
            self.updates.open(model, source.folder)
            found.append(self._variant(model, source.name, source.quality))
        return found

    def _variant(self, model: CompiledModel | Recommender, name: str, quality: float) -> Variant:
        threads = self.settings.threads
        if isinstance(model, Recommender):
            return recommender_variant(model, name, threads, quality=quality)
        return variant(model, name, threads, quality=quality, digest=model.digest)

    def get(self, name: str, version: str | None = None) -> Engine:
        """The engine of a model.

        Raises:
            Rejected: There is no such model or version.
        """
        engine = self._engines.get(name)
        if engine is None:
            raise Rejected(
                Reason.UNKNOWN, f"no model {name!r:.80}", hint=f"served: {', '.join(self._engines) or 'none'}"
            )
        if version is not None and version != str(engine.version):
            raise Rejected(
                Reason.UNKNOWN,
                f"no version {version!r:.80} of model {name}",
                hint=f"its version is {engine.version}; leave the version out for the newest",
            )
        return engine

    def reload(self, name: str) -> None:
        """Loads the folders of a model again and serves them from then on. After an error the present model goes on.

        Raises:
            Rejected: There is no such model.
            RecfxError: A folder is missing or damaged, or the new model has another interface.
        """
        with self._loading:
            engine, sources = self.get(name), self._sources[name]
            if not sources:
                raise InputError(
                    f"the model {name} was not loaded from a folder",
                    hint="call replace of its engine with new variants",
                )
            try:
                engine.replace(self._load(sources))
            except RecfxError as error:
                _log.error("model %s was not reloaded: %s", name, error)
                raise
            _log.info("model %s: version %d", name, engine.version)

    def loaded_again(self, name: str) -> list[Variant]:
        """The variants of a model, loaded again from their folders, for `replace` of its engine.

        Raises:
            Rejected: There is no such model.
            RecfxError: A folder is missing or damaged, or the new model has another interface.
        """
        with self._loading:
            engine = self.get(name)
            found = self._load(self._sources[name])
            for new in found:
                engine.require_same(new)
            return found

    def close(self, seconds: float = 10.0) -> bool:
        """Ends all models; whether every request was answered.

        Args:
            seconds: Time for the requests that wait or run.
        """
        self.updates.close()
        threads, ended = [], []
        for engine in self:
            threads.append(threading.Thread(target=lambda engine=engine: ended.append(engine.close(seconds))))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return all(ended)

"""`RemoteModels`: the models of a deployment, which are loaded again in all replicas."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from recfx.errors import InputError, RecfxError
from recfx.serve.engine.served import difference
from recfx.serve.engine.settings import EngineSettings
from recfx.serve.engine.variants import Variant
from recfx.serve.models import Models, Source
from recfx.serve.policies.tenants import TenantConfig
from recfx.serve.ray.interface import RemoteInterface, local_model
from recfx.serve.ray.remote_updates import ask_all
from recfx.serve.updates import UpdateSettings

_log = logging.getLogger("recfx.serve")


class RemoteModels(Models):
    """The models of a deployment.

    Args:
        handle: The handle of the deployment.
        settings: See `Models`.
        tenants: Likewise.
        updates: Likewise.
    """

    def __init__(
        self,
        handle: Any,
        settings: EngineSettings,
        tenants: TenantConfig | None = None,
        updates: UpdateSettings | None = None,
    ) -> None:
        super().__init__(settings, tenants, updates)
        self._handle = handle

    def add_remote(self, name: str, sources: Sequence[Source], variant: Variant) -> None:
        """Serves a model of the deployment.

        Args:
            name: Its name.
            sources: Its folders.
            variant: Its calls.
        """
        self.add_variants(name, [variant])
        self._sources[name] = tuple(sources)

    def reload(self, name: str) -> None:
        """Loads the folders of a model again in all replicas, and then makes them serve it. After an error all go on as they were.

        For a moment some replicas answer with the new model and some with the former one. Replicas that start meanwhile have the new one.

        Raises:
            Rejected: There is no such model, or a replica cannot load it.
            RecfxError: The folder is missing or damaged, or the new model has another interface.
        """
        with self._loading:
            engine, sources = self.get(name), self._sources[name]
            try:
                local, _ = local_model(sources[0])
                if unlike := difference(engine.variant.interface, local):
                    raise InputError(
                        f"the new model has another interface: {unlike}",
                        where=f"model {name}",
                        hint="serve it under another name",
                    )
                ask_all(self._handle, "load_again", name)
            except RecfxError as error:
                _log.error("model %s was not reloaded: %s", name, error)
                raise
            ask_all(self._handle, "serve_again", name)
            interface = RemoteInterface(self._handle, name, local, self.settings.timeout)
            engine.replace([dataclasses.replace(engine.variant, interface=interface)])
            _log.info("model %s: version %d in all replicas", name, engine.version)

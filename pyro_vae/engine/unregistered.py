"""Modules that no program registers, so that nothing of them is trained."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["Called"]


class Called:
    """Creates a context that notices modules which are called in it and could be trained."""

    def __init__(self) -> None:
        self._module: nn.Module | None = None

    def __enter__(self) -> Called:
        self._hook = register_module_forward_pre_hook(self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hook.remove()

    def check(self) -> None:
        """Checks that there was none, after a run that met no parameter to be trained.

        Raises:
            ValueError: If there was one.
        """
        if self._module is not None:
            raise ValueError(
                f"nothing would be trained: a module {type(self._module).__name__} has parameters, "
                "and neither program registers it. Call `pyro.module(name, module)` in the "
                "program that uses it, or make it a `pyro.nn.PyroModule`; "
                "`requires_grad_(False)` says that it is not to be trained"
            )

    def _notice(self, module: nn.Module, args: Any) -> None:
        # Without gradients it is run as it is, by a program that means to.
        if (
            self._module is None
            and torch.is_grad_enabled()
            and any(param.requires_grad for param in module.parameters())
        ):
            self._module = module

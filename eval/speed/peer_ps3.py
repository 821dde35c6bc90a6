"""Worker that measures ps3-torch. Run by path in the peer's interpreter, which cannot import this project.

The peer is used as an installed package, through its public names only.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch


class _StubNames(type):
    """Class of the stand-ins: any attribute of one is its own name, so enum-like members can be looked up."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _StubModule(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StubNames(name, (), {})


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``torchvision`` and everything below it as stub modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def stub_torchvision_if_broken() -> None:
    """Replace torchvision by stubs when it is missing or was built for another torch.

    timm imports torchvision for its data pipeline, which the tower does not use, and a torchvision wheel that
    does not match torch fails on import with ``operator torchvision::nms does not exist``.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _StubFinder())


def _load_measuring() -> Any:
    """The measuring module next to this file."""
    spec = importlib.util.spec_from_file_location("measuring", Path(__file__).with_name("measuring.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve measurements of the peer."""
    stub_torchvision_if_broken()
    from ps3 import PS3VisionModel

    measuring = _load_measuring()

    def build(job: dict[str, Any]) -> Any:
        dtype = getattr(torch, job["dtype"])
        model = PS3VisionModel.from_pretrained(job["folder"], torch_dtype=dtype).eval()
        # What VILA asks for; the default keeps every layer, and the peer warns about its memory.
        model.vision_model.num_hidden_layers_to_return = 2
        pixels = measuring.random_pixels(job["side"], dtype, job["seed"])
        sum(float(parameter.detach().sum()) for parameter in model.parameters())

        def run() -> Any:
            features = model(pixels, num_look_close=job["looks"]).last_hidden_state
            low = features[:, : job["low_res_tokens"]]
            return measuring.Outcome(tokens=features.shape[1], check=measuring.rms(low))

        return run

    measuring.serve(build)


if __name__ == "__main__":
    main()

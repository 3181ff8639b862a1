"""`compose.yaml`, `deploy/` and the `Dockerfile`, read as who runs them reads them."""

from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = ("perdure", "shop:1")
"""Images that the Dockerfile makes, and what stands on top of it: their arguments are those of `perdure`."""

yaml: Any = import_module("yaml")
"""By name, since it brings no types."""


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """Everything in `deploy/`, by kind and name."""
    files = sorted((ROOT / "deploy").glob("*.yaml"))
    found = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found), "two of a kind have one name"
    return by_name


def pod_of(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = objects()[kind, name]["spec"]["template"]["spec"]
    return spec


def commands() -> dict[str, list[str]]:
    """What follows `perdure`, by where it stands."""
    found = {
        f"compose.yaml {name}": service["command"]
        for name, service in compose()["services"].items()
        if service["image"] in OURS
    }
    for (kind, name), one in objects().items():
        for container in one["spec"].get("template", {}).get("spec", {}).get("containers", ()) if "spec" in one else ():
            if container["image"] in OURS:
                found[f"deploy {kind} {name}"] = container["args"]
    return found


def option(arguments: list[str], name: str) -> str:
    """The value of `--name=value`."""
    return next(one.partition("=")[2] for one in arguments if one.startswith(f"--{name}="))

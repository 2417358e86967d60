"""The notebooks run from top to bottom, show what they say they show, and are committed without what they showed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

CHECKS = {
    "explore-a-region": """
        dict(
            layers=[layer.name for layer in view.layers],
            addresses=[layer.url[:22] for layer in view.layers if hasattr(layer, "url")],
            clear=int((look > 0).all("band").sum()),
            labels=sorted(int(label) for label in sample["label"].unique()),
            jm=float(separability["jm"].max()),
        )""",
    "train-and-judge": """
        dict(
            auc=auc.to_dict(),
            regions=model.regions,
            mapped=int((maps["class"] == MANGROVE).sum()),
            calibration=len(whole),
            features=len(importance),
        )""",
    "read-change": """
        dict(
            years=[int(year) for year in total.index],
            layers=[layer.name for layer in view.layers],
            intervals=bool((total["low_ha"] < total["high_ha"]).all()),
            classes=sorted(change["class"].unique()),
            patches=len(patches),
            transitions=sorted(whole["name"].unique()),
            story=sorted(story),
            change=told["change"],
        )""",
}
"""What a last cell of each tells the test."""


def test_there_is_a_check_for_every_notebook():
    assert [path.stem for path in NOTEBOOKS] == sorted(CHECKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_paths_and_secrets(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 30_000
    book = json.loads(text)
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert not re.findall(r"[\"'(\s](?:/[A-Za-z]|[A-Z]:\\)[\w/\\.-]+", text), "absolute path"
    assert not re.findall(r"(?i)\b(?:sig|token|password|secret|api_?key)\s*=", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_that_its_world_is_simulated_and_leads_only_to_what_is_there(path):
    prose = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]
    assert "**simulated**" in "".join(prose[0]["source"])
    for cell in prose:
        for link in re.findall(r"\]\(([^)]+)\)", "".join(cell["source"])):
            assert link.startswith("https://") or (path.parent / link).exists(), link


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Jupyter in which python3 is this very interpreter, whatever else the machine has."""
    for package in ("ipykernel", "ipyleaflet", "nbclient", "nbformat"):
        pytest.importorskip(package, reason=f"{package} comes with the extras notebooks and test")
    folder = tmp_path_factory.mktemp("jupyter")
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}), encoding="utf-8"
    )
    return folder


def execute(path: Path, folder: Path, kernels: Path, patch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """Run a notebook in a folder; return it with its outputs, and what its check tells."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    check = f"import json\nprint(json.dumps({CHECKS[path.stem].strip()}))"
    book.cells.append(nbformat.v4.new_code_cell(check))
    patch.setenv("JUPYTER_PATH", str(kernels))
    patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    patch.setenv("IPYTHONDIR", str(folder / "ipython"))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    client = NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    *outputs, told = (cell.outputs for cell in book.cells if cell.cell_type == "code")
    return outputs, json.loads(told[0]["text"])


@pytest.mark.long
@pytest.mark.timeout(900)  # 20 s where nothing else runs
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(path, tmp_path, kernels, monkeypatch):
    outputs, told = execute(path, tmp_path, kernels, monkeypatch)
    if keep := os.environ.get("MANGROVES_KEEP_FIGURES"):
        _keep(outputs, told, Path(keep) / path.stem)
    for output in (one for of_cell in outputs for one in of_cell):
        assert output["output_type"] in ("execute_result", "display_data", "stream"), output
        assert output.get("name") != "stderr", output
        assert "Traceback" not in output.get("text", "")
    assert sum("image/png" in one.get("data", {}) for of_cell in outputs for one in of_cell) >= 3
    globals()[f"check_{path.stem.replace('-', '_')}"](told)


def check_explore_a_region(told: dict[str, Any]) -> None:
    assert len(told["layers"]) == 5
    assert told["layers"][-1] == "sampled: mangrove"
    assert told["addresses"] == ["data:image/png;base64,"] * 3
    assert told["clear"] > 0
    assert told["labels"] == [1, 2]
    assert told["jm"] > 1


def check_train_and_judge(told: dict[str, Any]) -> None:
    assert told["auc"]["XGBoost"] > told["auc"]["one tree"] > 0.8
    assert not {"sim-Vietnam2", "sim-India", "sim-Madagascar"} & set(told["regions"])
    assert told["mapped"] > 0
    assert told["calibration"] > 3
    assert told["features"] > 6


def check_read_change(told: dict[str, Any]) -> None:
    assert told["years"] == [2014, 2018, 2024]
    assert len(told["layers"]) == 3
    assert told["intervals"]
    assert told["classes"] == ["gain", "loss", "net"]
    assert told["patches"] > 0
    assert {"stable mangrove", "stable other"} <= set(told["transitions"])
    assert told["story"] == told["years"]
    assert told["change"] not in ("none", "not observed")


def _keep(outputs: list[Any], told: dict[str, Any], folder: Path) -> None:
    """Write the figures of a notebook, to be looked at."""
    import base64

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "told.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    texts = []
    for number, one in enumerate(one for of_cell in outputs for one in of_cell):
        if png := one.get("data", {}).get("image/png"):
            (folder / f"{number:02d}.png").write_bytes(base64.b64decode(png))
        else:
            texts.append(one.get("text") or one.get("data", {}).get("text/plain", ""))
    (folder / "texts.txt").write_text("\n---\n".join(texts), encoding="utf-8")

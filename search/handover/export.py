"""Hand a final model over: the folder that `model.export` writes, with the facts of its study."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data.images import LabelledImages
from data.loader import as_tensors
from model.checkpoint import load_model
from model.export import export_model
from model.seal import looks_of
from search.drive.session import session
from search.machine.slots import available_cpus
from search.record.final_metrics import read_metrics, winner_rows
from search.record.study import Study, StudyError
from search.record.whole_file import replace_folder
from search.words import data_caution

PROOF_IMAGES = 2000
"""Training images on which exported programs must agree with the live network."""


def export_winner(study: Study, images: LabelledImages, out_dir: Path | None = None) -> Path:
    """Export the winner's first seed: chosen before the test set was opened, not by its result.

    Args:
        study: Retrained, and held by this process.
        images: All its training images, for the proof.
        out_dir: Folder to write; None for the study's own, which is replaced once the new one is
            proven.

    Raises:
        StudyError: There is no final model.
        ExportError: `out_dir` holds something, or a program disagrees with the network.
    """
    metrics = read_metrics(study.folder / "final")
    rows = winner_rows(metrics)
    if not rows:
        raise StudyError(f"{study.name} has no retrained model; run `retrain {study.name}`")
    row = rows[0]
    path = study.folder / "final" / row["name"] / "model.safetensors"
    facts = study.noted("data") or {}
    looks = looks_of(study.record.looks())
    provenance = {
        "study": study.name,
        "trial": metrics["winner_trial"],
        "seed": row["seed"],
        "model_sha256": row["model_sha256"],
        "data": facts.get("name"),
        "data_fingerprint": facts.get("fingerprint"),
        "trained_on": f"{images.num_images:,} images",
        "test_looks": sum(look.showed for look in looks),
        **(study.noted("environment") or {}),
    }
    if caution := data_caution(study):
        provenance["caution"] = caution
    proof, labels = (part[:PROOF_IMAGES].numpy() for part in as_tensors(images, "cpu"))
    evaluation = row.get("test")
    if evaluation is not None:
        measured_on = f"Measured on the test images of {facts.get('name')}"
        evaluation = evaluation | {"measured_on": measured_on}
    # Ours is remade from the same model, and replaced only by one that is proven.
    place = out_dir or study.folder / "export.part"
    if out_dir is None:
        shutil.rmtree(place, ignore_errors=True)
    with session(study, "export"):
        export_model(
            load_model(path, "cpu"),
            place,
            proof_images=proof,
            proof_labels=labels,
            provenance=provenance,
            evaluation=evaluation,
            looks=looks,
            threads=available_cpus(),
        )
    if out_dir is not None:
        return out_dir
    ours = study.folder / "export"
    replace_folder(place, ours)
    study.note("exported", _what(study, row))
    return ours


def is_exported(study: Study) -> bool:
    """Return whether the study's own export is there, of the final model there is now.

    After a further look it is another one: its card tells how often the test set was opened.
    """
    rows = winner_rows(read_metrics(study.folder / "final"))
    there = (study.folder / "export" / "SHA256SUMS").is_file()
    return there and bool(rows) and study.noted("exported") == _what(study, rows[0])


def _what(study: Study, row: dict[str, Any]) -> str:
    return f"{row['model_sha256']}, {len(study.shown_looks())} looks"

"""What was measured of an exported network: as sections of its card, and as model_card.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from model.batch import bytes_per_image
from model.checkpoint import LoadedModel
from model.geometry import network_cost
from model.latency import Latency
from model.markdown import Code, plain, share, table
from model.proof import TOLERANCE, Proof
from model.seal import Look


def accuracy_section(evaluation: Mapping[str, Any] | None) -> str:
    """Return how good it is, as a whole and by class."""
    if evaluation is None:
        return "## Accuracy\n\nNot measured before this export.\n"
    measured_on = evaluation.get("measured_on", "Measured on labelled images it was not trained on")
    rows = [
        (
            score["name"],
            share(score["precision"], score["precision_ci95"]),
            share(score["recall"], score["recall_ci95"]),
            f"{score['f1']:.3f}",
            str(score["support"]),
        )
        for score in evaluation["per_class"]
    ]
    top_k = ", ".join(f"top {k} {value:.2%}" for k, value in evaluation["top_k"].items())
    return (
        "## Accuracy\n\n"
        f"{plain(str(measured_on)).rstrip('.')}: {evaluation['num_images']:,} images, accuracy\n"
        f"**{share(evaluation['accuracy'], evaluation['ci95'])}**, cross-entropy "
        f"{evaluation['loss']:.4f}, {top_k}.\n"
        f"Expected calibration error {evaluation['calibration_error']:.3f} (15 bins). Ranges are "
        "95% Wilson\nintervals: they cover the choice of images, not the chance of training.\n\n"
        f"{table(('Class', 'Precision', 'Recall', 'F1', 'Images'), rows)}"
    )


def seal_section(looks: Sequence[Look]) -> str:
    """Return every time that the test images were opened."""
    rows = [
        (look.at, look.reason, "yes" if look.broke_seal else "no", "yes" if look.showed else "no")
        for look in looks
    ]
    broken = any(look.broke_seal for look in looks)
    return (
        "## The seal of the test images\n\n"
        "They stayed closed while this network was searched for, chosen and trained; every time "
        "they were\nopened is on record"
        + (
            ". **The seal was broken**: what was seen before may have led to what was measured.\n\n"
            if broken
            else ".\n\n"
        )
        + table(("Opened (UTC)", "Why", "Broke the seal", "Showed a number"), rows)
    )


def speed_section(latency: Latency, provenance: Mapping[str, Any]) -> str:
    """Return how long the program takes, by size of batch."""
    rows = [
        (
            str(row.batch),
            f"{row.median_ms:.2f} ms",
            f"{row.p90_ms:.2f} ms",
            f"{row.images_per_second:,.0f}",
            str(row.runs),
        )
        for row in latency.batches
    ]
    where = ", ".join(str(provenance[k]) for k in ("processor", "system") if k in provenance)
    threads = f"{latency.threads} thread{'' if latency.threads == 1 else 's'}"
    header = ("Images at once", "Median", "90th percentile", "Images per second", "Calls timed")
    return (
        "## Speed\n\n"
        f"`model.onnx` by {latency.runtime} on the CPU, {threads}"
        f"{f' ({plain(where)})' if where else ''},\nmeasured when this folder was written; "
        "one call, pixels in and logits out.\n\n"
        f"{table(header, rows)}"
    )


def proof_section(proofs: Sequence[Proof]) -> str:
    """Return how closely the programs follow the network."""
    rows = [
        (
            Code(proof.program),
            proof.runtime,
            f"{proof.num_images:,}",
            "none",  # or there would be no export
            f"{proof.largest_difference:.1e}",
            "-" if proof.accuracy is None else f"{proof.accuracy:.2%}",
        )
        for proof in proofs
    ]
    header = (
        "Program",
        "Run by",
        "Images",
        "Other answers",
        "Largest logit difference",
        "Accuracy on them",
    )
    return (
        "## Proof of the export\n\n"
        "Each program was run in a clean process, without the project that made it, and gave the\n"
        f"class of the live network on every image, logits within {TOLERANCE:g}: what was measured "
        "of the\nnetwork holds for the programs. The images are of those it was trained on, so "
        "their accuracy\nis no measure of quality.\n\n"
        f"{table(header, rows)}"
    )


def card_facts(
    loaded: LoadedModel,
    provenance: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    proofs: Sequence[Proof],
    latency: Latency,
    looks: Sequence[Look],
) -> dict[str, Any]:
    """Return the content of model_card.json: JSON values, null for what was not measured."""
    network = loaded.configuration.network
    cost = network_cost(network, loaded.shape)
    return {
        "classes": list(loaded.classes),
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "bytes_per_image": bytes_per_image(network, loaded.shape),
        "configuration": loaded.configuration.to_dict(),
        "epochs": loaded.epoch,
        "seed": loaded.seed,
        "evaluation": None if evaluation is None else dict(evaluation),
        "looks": [look.to_dict() for look in looks],
        "latency": latency.to_dict(),
        "proofs": [asdict(proof) for proof in proofs],
        "provenance": dict(provenance),
    }

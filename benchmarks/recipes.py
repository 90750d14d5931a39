"""The recipes that `accuracy.py` and `ablation.py` know by name."""

from __future__ import annotations

from model.config import Configuration, NetworkConfig, TrainingConfig
from search.config.baselines import BASELINES
from search.config.config_file import load_config


def _known_start(preset: str) -> Configuration:
    """Return the first of the points that a preset begins with."""
    config = load_config(preset=preset)
    return config.search_space().configuration(config.points[0])


RECIPES: dict[str, Configuration] = {
    "tiny": Configuration(
        network=NetworkConfig(
            filters=(20, 40, 64), convs_per_block=2, residual=True, head="flatten", dropout=0.1
        ),
        training=TrainingConfig(
            epochs=24,
            optimizer="muon",
            learning_rate=0.4,
            weight_decay=5e-4,
            ema=0.99,
            flip=True,
            alternate=True,
            shift=1,
            erase=0.25,
            label_smoothing=0.1,
        ),
    ),
    "quickstart": _known_start("quickstart"),
    "laptop": _known_start("laptop"),
    "notebook": BASELINES["seed-64-dropout"].configuration(epochs=20),
}
"""A network and how it is trained; `quickstart` and `laptop` are what these presets begin with."""

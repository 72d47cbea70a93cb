"""Does the proof keep its error? Embeddings: simulated students exactly at minus the margin, and at zero.

    python bench/gate_embeddings.py --runs 1000 --power-runs 300 --jobs 2 > table.md
    python bench/gate_embeddings.py --only recall_at_1

How it is judged stands in `simulation.py`, what is drawn and why its truth is exact in `embedding_draws.py`.
"""

from __future__ import annotations

from functools import partial

from foveola.bench.embedding_draws import draw_forgotten_pairs, draw_pairs, draw_probe, draw_recall
from foveola.bench.simulation import Scenario, main

SCENARIOS = (
    Scenario(
        name="pairs, two images each",
        metric="pair_percentile",
        margin=0.02,
        patients=150,
        draw=partial(draw_pairs, most=2),
    ),
    Scenario(name="pairs, 2-4 images", metric="pair_percentile", margin=0.03, patients=80, draw=draw_pairs),
    Scenario(
        name="pairs, 2-4 images, a third err apart",
        metric="pair_percentile",
        margin=0.03,
        patients=80,
        draw=partial(draw_pairs, likeness=0.98, icc=0.3),
    ),
    Scenario(
        name="pairs, 0.7, 25 patients",
        metric="pair_percentile",
        margin=0.08,
        patients=25,
        draw=partial(draw_pairs, percentile=0.7),
    ),
    Scenario(
        name="pairs, whole patients are forgotten",
        metric="pair_percentile",
        margin=0.03,
        patients=120,
        draw=draw_forgotten_pairs,
        power=False,
    ),
    Scenario(
        name="recall, two images each",
        metric="recall_at_1",
        margin=0.08,
        patients=120,
        draw=partial(draw_recall, most=2),
    ),
    Scenario(name="recall, 2-4 images", metric="recall_at_1", margin=0.06, patients=120, draw=draw_recall),
    Scenario(
        name="probe, one image each", metric="probe_auc", margin=0.03, patients=300, draw=partial(draw_probe, most=1)
    ),
    Scenario(name="probe, 1-4 images, icc 0.4", metric="probe_auc", margin=0.03, patients=200, draw=draw_probe),
)

if __name__ == "__main__":
    main(SCENARIOS, __doc__)

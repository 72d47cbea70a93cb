"""Why two engines disagree: a bundle's artefacts beside each other, and the layer at which they part."""

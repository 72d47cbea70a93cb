"""From a bundle and a teacher to a proof, in a recipe and in the field."""

"""How the rule of which images are fit is found on good images, and tried on spoiled ones."""

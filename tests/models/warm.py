"""Imported once by the server that children are forked from: what takes long to import."""

from acpt_trainer.ort import patches

patches.start()  # imports ORTModule

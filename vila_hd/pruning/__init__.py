"""Fewer visual tokens for the language model, after the tower has encoded everything: ToMe, VisionZip, FastV.

These are baselines for the choice of patches, which never encodes what it drops. ToMe and VisionZip act
between projector and language model and train like everything else; FastV acts inside the language model
while it reads the prompt.
"""

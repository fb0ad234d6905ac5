"""LAST-E v3: four small graph networks that recognise human actions from skeleton motion, and their trainer.

``last_e.config`` and the other torch-free modules are shared with the job runner; everything else needs torch.
"""

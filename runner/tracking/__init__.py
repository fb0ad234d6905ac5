"""A tracker of the user's (W&B, MLflow, Trackio) gets what a job's attempts do, as one run, from a child of the attempt: what
it imports, waits for and breaks is no matter of the training's."""

"""An attempt as a job of the cluster that this machine belongs to."""

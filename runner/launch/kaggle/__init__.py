"""Attempts as sessions of Kaggle: two T4 for hours, a weekly quota of them, and nothing to pay."""

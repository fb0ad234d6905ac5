"""This very lastrun on a machine that has none: its wheel lies in the job's store, and what fetches it goes along as text."""

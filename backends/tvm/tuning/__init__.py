"""Tuning: tasks out of a model, MetaSchedule's search, logs on disk, and their application."""

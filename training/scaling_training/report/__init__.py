"""What a run leaves for people and programs: the model, its curves, its metrics, a summary.

Heavy libraries (matplotlib, torch) are imported where they are used.
"""

"""Prefect, and nothing but orchestration: each flow reads as one statement per stage."""

"""The stages and what they stand on: pure steps, free of orchestration."""

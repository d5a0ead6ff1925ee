"""The speed claims of the project are measured here; see docs/performance.md."""

"""Every speed claim of the project is measured here; see docs/performance.md."""

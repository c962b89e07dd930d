"""Lightning hooks, no mathematics."""

"""Sets of sounds heard as numbers: clips embedded, compared with real ones, and put into words."""

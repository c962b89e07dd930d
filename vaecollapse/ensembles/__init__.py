"""Ensembles of fields on disk: CF NetCDF with the truth beside the members, and their scores."""

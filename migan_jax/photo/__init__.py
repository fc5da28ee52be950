"""Photographs at full resolution: holes found, each painted by the route that suits it."""

"""Pages: a run and a recipe become one HTML file."""

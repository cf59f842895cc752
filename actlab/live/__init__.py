"""A run watched while it grows: in the browser, in a notebook, in a terminal."""

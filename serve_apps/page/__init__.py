"""The page of `fer serve`: its JavaScript in `src/`, bundled into `dist/`, and the routes that serve it."""

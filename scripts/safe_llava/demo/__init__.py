"""The demo: a miniature of everything upstream serves, a local server for it, and the demo's own check."""

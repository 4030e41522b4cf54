"""Stage prism: asking about people's biometric attributes, and judging and scoring the answers."""

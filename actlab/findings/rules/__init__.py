"""The rules, by what they look at: units, values, scale, motion, and the head."""

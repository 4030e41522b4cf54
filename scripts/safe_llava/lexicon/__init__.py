"""English words and rules that the rule-based judge and the audit of annotations both read."""

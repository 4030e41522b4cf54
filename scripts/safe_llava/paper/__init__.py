"""The paper stage: tidy scores in, tables, figures and a summary out."""

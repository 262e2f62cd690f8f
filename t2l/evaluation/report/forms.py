"""What figures a report has, and the forms they are written in."""

FIGURES = ("scores", "controls", "recipes", "costs", "tasks", "style", "scale", "confidence", "map", "norms")
VECTOR_FORMS = ("pdf", "svg")
FIGURE_FORMS = ("png", *VECTOR_FORMS)

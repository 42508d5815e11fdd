"""What travels: pydantic models, subjects, headers and rejection codes. Imports nothing of ours."""

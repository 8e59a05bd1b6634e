"""Reports: the record of a validation, and the page that is made of it."""

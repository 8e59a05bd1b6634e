"""The command line: one file a verb, trtexec's and Polygraphy's words in kebab case."""

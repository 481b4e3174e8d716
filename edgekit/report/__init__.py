"""What a run found, for a program, a person, a pull request and a test runner."""

"""What is recorded of requests and answers: metrics, logs, drift, feedback, and how versions compare."""

"""The wire: values, event decoding, retries and HTTP. It knows no terminal and no environment."""

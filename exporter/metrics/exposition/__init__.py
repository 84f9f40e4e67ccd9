"""The wire formats: text 0.0.4, OpenMetrics 1.0, protobuf with native histograms."""

"""What every model card says: what a model of expressions is for, and what it must not be used for."""

USE = """\
## Intended use

Research and tools that describe the **apparent expression** in pictures of faces, by people who agreed to it: sorting
picture collections, animation, interface experiments, studies with consent, comparison with other models.

## Out of scope

- Telling what somebody feels, thinks or intends: a face does not show that reliably (Barrett et al., Psychological
  Science in the Public Interest, 2019).
- Decisions about people: hiring, work, education, credit, insurance, policing, border control, lie detection,
  diagnosis.
- Inferring emotions at work or in education, which is forbidden in the European Union but for medical or safety
  reasons (Regulation (EU) 2024/1689, Art. 5(1)(f)); other emotion recognition is high-risk there (Annex III), and
  people must be told of it (Art. 50(3)).
- Identifying people.
"""

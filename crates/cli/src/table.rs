//! A table that is printed row by row, while its content is still being made.

/// The columns: name, width in characters, and whether numbers stand in it (aligned right).
#[derive(Debug)]
pub(crate) struct Columns<'a>(pub(crate) &'a [(&'a str, usize, bool)]);

impl Columns<'_> {
    /// The names of the columns, and a line below.
    pub(crate) fn header(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|(name, ..)| (*name).to_owned()).collect();
        let total = self.0.iter().map(|(_, width, _)| width + 2).sum::<usize>();
        format!(
            "{}\n{}",
            self.row(&names),
            "-".repeat(total.saturating_sub(2))
        )
    }

    /// One row. A cell that is too long widens its row only.
    pub(crate) fn row(&self, cells: &[String]) -> String {
        debug_assert_eq!(cells.len(), self.0.len());
        let mut row = String::new();
        for ((_, width, right), cell) in self.0.iter().zip(cells) {
            if !row.is_empty() {
                row.push_str("  ");
            }
            if *right {
                row.push_str(&format!("{cell:>width$}"));
            } else {
                row.push_str(&format!("{cell:<width$}"));
            }
        }
        row.truncate(row.trim_end().len());
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let columns = Columns(&[("name", 6, false), ("n", 3, true), ("note", 4, false)]);
        let row = |cells: [&str; 3]| columns.row(&cells.map(String::from));
        assert_eq!(columns.header(), "name      n  note\n-----------------");
        assert_eq!(row(["a", "1", ""]), "a         1");
        assert_eq!(row(["longer", "100", "x"]), "longer  100  x");
    }
}

//! Draws what `top` shows. Only rows that are visible cost anything, however many there are.

use std::time::SystemTime;

use lockkeeper::inspect::PathState;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Row, Table};

use super::state::State;
use crate::list::{HEADINGS, identifier, if_shown, mode};
use crate::text::{age, foreign, session};

pub fn draw(frame: &mut Frame<'_>, state: &mut State, now: SystemTime) {
    let detail = if state.detail { Constraint::Percentage(50) } else { Constraint::Length(0) };
    let [head, rows, detail, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), detail, Constraint::Length(1)])
            .areas(frame.area());
    let waiters: usize = state.rows.iter().map(|(row, _)| row.waiters).sum();
    let mut summary =
        format!("lockkeeper top {}: {} places, {waiters} waiters", state.title, state.rows.len());
    if let Some(unreadable) = &state.unreadable {
        summary = format!("{summary}, {unreadable}");
    }
    frame.render_widget(Line::styled(foreign(&summary, head.width.into()), bold()), head);
    places(frame, state, rows, now);
    if state.detail {
        if let Some((_, place)) = state.selected().and_then(|index| state.rows.get(index)) {
            queue(frame, place, detail, now);
        }
    }
    let keys = "↑↓ select   Enter queue   s sort   r reverse   q quit";
    let text =
        state.error.as_deref().map_or_else(|| keys.to_owned(), |error| foreign(error, foot.width.into()));
    frame.render_widget(Line::from(text), foot);
}

fn places(frame: &mut Frame<'_>, state: &mut State, area: Rect, now: SystemTime) {
    let visible = usize::from(area.height).saturating_sub(1);
    state.page = visible;
    let selected = state.selected();
    // The page that has the selected row.
    let first = selected.map_or(0, |selected| selected / visible.max(1) * visible.max(1));
    let rows = state.rows.iter().enumerate().skip(first).take(visible).map(|(index, (row, _))| {
        let style = if selected == Some(index) {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        Row::new(row.cells(now)).style(style)
    });
    let headings =
        HEADINGS.iter().enumerate().map(|(column, heading)| match (column == state.sort, state.reversed) {
            (false, _) => (*heading).to_owned(),
            (true, false) => format!("{heading}▼"),
            (true, true) => format!("{heading}▲"),
        });
    let widths = [
        Constraint::Fill(3),
        Constraint::Length(10),
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(12),
    ];
    let table = Table::new(rows, widths).header(Row::new(headings).style(bold()));
    frame.render_widget(table, area);
}

fn queue(frame: &mut Frame<'_>, place: &PathState, area: Rect, now: SystemTime) {
    let entries = &place.queue().entries;
    let title = match place {
        PathState::Semaphore(pool) => {
            let limit = pool.limit.map_or_else(|| "?".to_owned(), |limit| limit.to_string());
            format!(
                " {}: {} of {limit} permits are taken, {} in the queue ",
                place.path(),
                pool.taken.len(),
                entries.len()
            )
        }
        _ => format!(" {}: {} in the queue ", place.path(), entries.len()),
    };
    let visible = usize::from(area.height).saturating_sub(2);
    let rows = entries.iter().take(visible).enumerate().map(|(position, entry)| {
        Row::new([
            format!("#{position}"),
            mode(entry).to_owned(),
            identifier(&entry.contender.identifier, entry.readable),
            if_shown(entry.created, session(entry.contender.session)),
            if_shown(entry.created, entry.contender.token.to_string()),
            age(entry.created, now),
            entry.waits_for.map_or_else(|| "holds".to_owned(), |ahead| format!("waits for #{ahead}")),
        ])
    });
    let widths = [
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Fill(1),
        Constraint::Length(18),
        Constraint::Length(19),
        Constraint::Length(8),
        Constraint::Length(15),
    ];
    let block = Block::new().borders(Borders::TOP).title(foreign(&title, area.width.into()));
    frame.render_widget(Table::new(rows, widths).block(block), area);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use lockkeeper::Keeper;
    use lockkeeper::inspect::Inventory;
    use lockkeeper_embedded::Embedded;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::top::state::Key;

    /// Locks below `/locks`, each with this many contenders.
    async fn stage(contenders: &[(&str, usize)]) -> (Embedded, Keeper, Inventory) {
        let server = Embedded::start().await.expect("a free port");
        let options = Keeper::options().session_timeout(Duration::from_secs(20)).identifier("billing-7");
        let keeper = options.connect(&server.address()).await.expect("should connect");
        let mut wanted = 0;
        for (name, count) in contenders {
            wanted += count;
            let lock = keeper.lock(&format!("/locks/{name}")).expect("a path");
            for _ in 0..*count {
                let lock = lock.clone();
                tokio::spawn(async move { std::mem::forget(lock.acquire().await) });
            }
        }
        let found = loop {
            let found = keeper.inspector().walk("/locks").await.expect("read");
            if found.places.iter().map(|place| place.queue().entries.len()).sum::<usize>() == wanted {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        (server, keeper, found)
    }

    fn lines(terminal: &mut Terminal<TestBackend>, state: &mut State) -> Vec<String> {
        terminal.draw(|frame| draw(frame, state, SystemTime::now())).expect("drawn");
        let buffer = terminal.backend().buffer();
        let width = usize::from(buffer.area.width);
        let rows = buffer.content.chunks(width);
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn the_longest_queue_is_first_and_keys_change_that() {
        let (_server, _keeper, found) = stage(&[("a", 1), ("b", 3), ("c", 2)]).await;
        let mut terminal = Terminal::new(TestBackend::new(100, 16)).expect("a terminal");
        let mut state = State::new("/locks", "here");
        state.read(Ok(found));
        let order = |terminal: &mut Terminal<TestBackend>, state: &mut State| -> String {
            let lines = lines(terminal, state);
            lines[2..5].iter().filter_map(|line| line.chars().nth("/locks/".len())).collect()
        };
        assert_eq!(order(&mut terminal, &mut state), "bca");
        assert_eq!(state.selected(), Some(0), "the first, as nothing is selected");
        assert!(state.press(Key::Down));
        assert!(state.press(Key::Reverse));
        assert_eq!(order(&mut terminal, &mut state), "acb");
        assert_eq!(state.selected(), Some(1), "the selected place stays selected");
        for _ in 0..2 {
            state.press(Key::Sort);
        }
        assert_eq!(order(&mut terminal, &mut state), "cba", "by path, reversed");
        state.press(Key::First);
        assert_eq!(state.selected(), Some(0));
        state.press(Key::Last);
        assert_eq!(state.selected(), Some(2));
        state.press(Key::Up);
        state.press(Key::Detail);
        let lines = lines(&mut terminal, &mut state);
        assert!(lines.iter().any(|line| line.contains("/locks/b: 3 in the queue")), "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains("billing-7") && line.contains("waits for #0")),
            "{lines:?}"
        );
        assert!(!state.press(Key::Quit));
    }

    #[tokio::test]
    async fn an_error_is_shown_and_the_last_rows_stay() {
        let (_server, keeper, found) = stage(&[("a", 1)]).await;
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).expect("a terminal");
        let mut state = State::new("/locks", "here");
        state.read(Ok(found));
        keeper.close().await;
        state.read(keeper.inspector().walk("/locks").await);
        let lines = lines(&mut terminal, &mut state);
        assert!(lines[2].starts_with("/locks/a") && lines[7].contains("closed"), "{lines:?}");
    }

    #[test]
    fn what_may_not_be_read_is_counted() {
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).expect("a terminal");
        let mut state = State::new("/locks", "here");
        let mut found = Inventory::default();
        found.unreadable.extend(["/locks/a".to_owned(), "/locks/b".to_owned()]);
        state.read(Ok(found));
        let shown = lines(&mut terminal, &mut state);
        assert!(shown[0].ends_with("0 places, 0 waiters, 2 nodes may not be read"), "{shown:?}");
        state.read(Ok(Inventory::default()));
        let shown = lines(&mut terminal, &mut state);
        assert!(shown[0].ends_with("0 places, 0 waiters"), "{shown:?}");
    }

    #[tokio::test]
    async fn a_terminal_of_any_size_is_drawn() {
        let (_server, _keeper, found) = stage(&[("a", 2)]).await;
        let mut state = State::new("/locks", "here");
        state.read(Ok(found));
        state.press(Key::Detail);
        for (width, height) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
            lines(&mut Terminal::new(TestBackend::new(width, height)).expect("a terminal"), &mut state);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn five_thousand_contenders_are_read_and_drawn_quickly() {
        let (_server, keeper, found) = stage(&[("a", 5000)]).await;
        let begun = Instant::now();
        let found = keeper.inspector().walk_again("/locks", found).await.expect("read");
        let read = begun.elapsed();
        let mut terminal = Terminal::new(TestBackend::new(200, 60)).expect("a terminal");
        let mut state = State::new("/locks", "here");
        state.read(Ok(found));
        state.press(Key::Detail);
        let begun = Instant::now();
        for _ in 0..20 {
            lines(&mut terminal, &mut state);
        }
        let drawn = begun.elapsed() / 20;
        println!("5,000 contenders: read in {read:?}, drawn in {drawn:?}");
        assert!(read < Duration::from_secs(1) && drawn < Duration::from_millis(50), "{read:?}, {drawn:?}");
    }
}

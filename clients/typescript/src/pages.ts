// Lists come in pages. A reader wants the items.

export interface Page<Item, Cursor> {
  items: Item[]
  next: Cursor | null
}

/** Every item of every page, in order; a page is fetched when its first item is asked for. */
export async function* everyItem<Item, Cursor>(
  fetchPage: (cursor: Cursor | undefined) => Promise<Page<Item, Cursor>>,
): AsyncGenerator<Item, void, undefined> {
  let cursor: Cursor | undefined
  do {
    const page = await fetchPage(cursor)
    yield* page.items
    cursor = page.next ?? undefined
  } while (cursor !== undefined)
}

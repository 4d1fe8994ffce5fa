-- ARGV: milliseconds without any change, ttl in milliseconds, milliseconds after which what the broker had is lost, how many
-- outcomes may be missing.
-- Gives, of a cancelled batch that was never sealed and has not changed for so long, the first item of which nothing may
-- come any more and how many items it has from now on; the same again where that was done before; twice 0 for any other,
-- nothing for an unknown one.
if call('EXISTS', batch) == 0 then
  return false
end

local function recorded()
  local sum = 0
  for _, name in ipairs({'ok', 'failed', 'dead', 'cancelled', 'expired'}) do
    sum = sum + number(name)
  end
  return sum
end

local function quiet_for()
  return tonumber(now()) - tonumber(call('HGET', batch, 'touched') or call('HGET', batch, 'created'))
end

local closed = call('HGET', batch, 'closed')
if not closed then
  local is_over = call('HEXISTS', batch, 'stopped') == 1 and quiet_for() >= tonumber(ARGV[1])
  if not is_over or call('HEXISTS', batch, 'total') == 1 then
    return {0, 0}
  end
  local upto = math.max(number('accepted'), recorded_end())
  -- Somebody has sent outcomes of items that are far from all others: they are not to be filled up to there.
  if upto - math.max(number('accepted'), recorded()) > tonumber(ARGV[4]) then
    return {0, 0}
  end
  -- Not before: one that is left as it is goes when nobody goes on with it.
  go_on()
  closed = whole(upto)
  call('HSET', batch, 'total', closed, 'closed', closed)
  complete(ARGV[2])
  changed()
end
-- Nor where somebody says that the broker had so many more: these are waited for.
if quiet_for() >= tonumber(ARGV[3]) and tonumber(closed) - recorded() <= tonumber(ARGV[4]) then
  call('HSET', batch, 'accepted', 0)
end
return {number('accepted'), tonumber(closed)}

/*
 * Counts the nuclei of LymphInfer's result in the annotations of the open image and along the borders of
 * their classes: the annotations get measurements, and bands, aggregates and hot spots come as locked ones.
 *
 * Change: `lymphinfer` below, the full path of the program; `margins`, the bands; `resultsFolder`, where
 * the results of `lymphinfer predict` are not in PROJECT/lymphinfer (without a project: beside the slide).
 * Runs in: the script editor (Run, and Run for project), the menu of install_menu.groovy, and
 *   QuPath script -s -p PROJECT.qpproj count_regions.groovy
 * For QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Bands inside and outside of a class's border, µm, such as ['Tumor:100,500']. Empty: none
List<String> margins = []

// The --out of `lymphinfer predict`, such as '/data/results'. null: PROJECT/lymphinfer, or a folder
// lymphinfer beside the open image
String resultsFolder = null

// Take away the bands of an earlier count. null: ask; without a window they stay.
Boolean replace = null

// ---- Work ----------------------------------------------------------------------------------

def imageData = getCurrentImageData()
if (imageData == null) {
    refuse('Open an image first.')
    return
}
def server = imageData.getServer()
def slide = server.getURIs().collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
if (slide == null) {
    refuse('The open image is no file of this computer, so it has no result here.')
    return
}
// PROJECT_BASE_DIR is a text that only an open project can resolve.
def base = getProject() == null ? slide.getParentFile() : Projects.getBaseDirectory(getProject())
def folder = resultsFolder == null ? new File(base, 'lymphinfer') : new File(resultsFolder)
def found = findResults(folder, slide.getName()).findAll { isOf(it[1], server) }
if (found.size() != 1) {
    refuse("${found ? 'Several results' : 'No result'} of ${slide.getName()} in ${folder}: run run_lymphinfer.groovy first, or set " +
            'resultsFolder at the top of this script.')
    return
}
def result = found[0][0]
def hierarchy = imageData.getHierarchy()
def old = hierarchy.getAnnotationObjects().findAll { it.isLocked() && isOfRegions(it) }
def annotations = getAnnotationObjects().findAll { it.hasROI() && it.getROI().isArea() && !(it in old) }
if (!annotations) {
    refuse('No annotation with an area is here: draw one, and give it a class.')
    return
}
if (old && replace == null && getQuPath() != null)
    replace = Dialogs.showYesNoDialog('LymphInfer', "${old.size()} bands of an earlier count are here. Replace them?".toString())
if (old && !replace) {
    println 'The bands of an earlier count stay. replace = true takes them away.'
    return
}
def file = new File(result, slide.getName() + '.annotations.geojson').getPath()
exportObjectsToGeoJson(annotations, file, 'FEATURE_COLLECTION', 'EXCLUDE_MEASUREMENTS')
def command = [lymphinfer, 'regions', result.getPath(), '--annotations', file]
for (margin in margins)
    command += ['--margin', margin]
println command.join(' ')

def (code, lines, log) = runCommand(command.collect { it.toString() })
if (code == null) {
    refuse("Cannot start ${lymphinfer} (${log.join(' ')}). Set the full path of the program at the top of this script.")
    return
}
if (code != 0 || lines.isEmpty()) {
    refuse("lymphinfer ended with code ${code}; nothing was counted. Its last words:\n\n${log.takeRight(12).join('\n')}")
    return
}
def counted = PathIO.readObjects(new File(lines[-1].trim()))
def mine = annotations.collectEntries { [it.getID(), it] }
// An annotation comes back under its own id: it gets the numbers, and stays as it is drawn.
counted.findAll { mine.containsKey(it.getID()) }.each {
    mine[it.getID()].getMeasurementList().putAll(it.getMeasurementList().asMap())
}
def bands = counted.findAll { !mine.containsKey(it.getID()) }
bands.each { it.setLocked(true) }
hierarchy.removeObjects(old, true)
hierarchy.addObjects(bands)
fireHierarchyUpdate()
println "${annotations.size()} annotations have measurements, ${bands.size()} bands, aggregates and hot spots came with them."
println "The table: ${new File(result, 'regions.csv')}"

/** Whether an annotation is a band, an aggregate or a hot spot of an earlier count. */
boolean isOfRegions(annotation) {
    def values = annotation.getMeasurementList()
    return ['Nuclei per mm^2', 'Hull um^2', 'Gi* z'].any { !Double.isNaN(values.get(it)) }
}

/** The results of a slide in a folder, as [its folder, its summary]. */
List findResults(File folder, String name) {
    def found = []
    if (!folder.isDirectory())
        return found
    folder.eachFileRecurse { file ->
        if (file.name != 'summary.json')
            return
        try {
            def summary = new Gson().fromJson(file.getText('UTF-8'), Map)
            if (summary.slide.name == name)
                found << [file.getParentFile(), summary]
        } catch (Exception e) {
            println "Passed over ${file}: ${e.message}"
        }
    }
    return found
}

/** Say why nothing was done: in a window, or, where there is none, as the error that ends the script. */
void refuse(CharSequence words) {
    if (getQuPath() == null)
        throw new RuntimeException(words.toString())
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Run a command and show its log as it comes: exit code, standard output, log; no code if it cannot start. */
List runCommand(List<String> command) {
    def lines = Collections.synchronizedList([])
    def log = Collections.synchronizedList([])
    def builder = new ProcessBuilder(command)
    // Python on Windows writes other letters than UTF-8 unless it is told to.
    builder.environment().put('PYTHONUTF8', '1')
    def process
    try {
        process = builder.start()
    } catch (IOException e) {
        return [null, lines, [e.message]]
    }
    process.getOutputStream().close()
    def readers = [
        Thread.start { process.getInputStream().eachLine('UTF-8') { if (!it.isBlank()) lines << it } },
        Thread.start { process.getErrorStream().eachLine('UTF-8') { log << it; println it } }
    ]
    try {
        int code = process.waitFor()
        readers.each { it.join() }
        return [code, lines, log]
    } finally {
        // A script that is killed takes LymphInfer with it.
        process.destroy()
    }
}

/** Whether a result is of the image that QuPath shows; of a slide with bounds QuPath shows a part. */
boolean isOf(summary, server) {
    def size = summary.slide.dimensions.collect { it as int }
    def corner = summary.slide.bounds_offset.collect { it as int }
    def shown = [server.getWidth(), server.getHeight()]
    return shown == size || (corner != [0, 0] && (0..1).every { corner[it] + shown[it] <= size[it] })
}
